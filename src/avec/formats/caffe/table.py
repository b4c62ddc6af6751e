"""Caffe's messages as one table: what `schema` is read from, and nothing else.

A paragraph is one message or one enum. A field is `number name type`; after the type, `*` says repeated, `*p` repeated
and written packed, `!` required; `= value` is its default. An enum inside a message is named `Message.Enum`.
Field numbers, names and defaults are facts of the format. Source: BVLC Caffe 1.0, src/caffe/proto/caffe.proto; for
the parameters 202 to 206, which SSD adds, and nms_param and imresize_param, which OpenPose's first release adds, that
file of their forks. There imresize_param is 148, which is clip_param's number here: in prototxt only its name counts.
"""

TABLE = """
enum Phase: 0 TRAIN, 1 TEST

message BlobShape: 1 dim int64*p
message BlobProto: 1 num int32, 2 channels int32, 3 height int32, 4 width int32, 5 data float*p, 6 diff float*p,
  7 shape BlobShape, 8 double_data double*p, 9 double_diff double*p
message BlobProtoVector: 1 blobs BlobProto*
message Datum: 1 channels int32, 2 height int32, 3 width int32, 4 data bytes, 5 label int32, 6 float_data float*,
  7 encoded bool

message NetParameter: 1 name string, 2 layers V1LayerParameter*, 3 input string*, 4 input_dim int32*,
  5 force_backward bool, 6 state NetState, 7 debug_info bool, 8 input_shape BlobShape*, 100 layer LayerParameter*
message NetState: 1 phase Phase = TEST, 2 level int32, 3 stage string*
message NetStateRule: 1 phase Phase, 2 min_level int32, 3 max_level int32, 4 stage string*, 5 not_stage string*

message LayerParameter: 1 name string, 2 type string, 3 bottom string*, 4 top string*, 5 loss_weight float*,
  6 param ParamSpec*, 7 blobs BlobProto*, 8 include NetStateRule*, 9 exclude NetStateRule*, 10 phase Phase,
  11 propagate_down bool*, 100 transform_param TransformationParameter, 101 loss_param LossParameter,
  102 accuracy_param AccuracyParameter, 103 argmax_param ArgMaxParameter, 104 concat_param ConcatParameter,
  105 contrastive_loss_param ContrastiveLossParameter, 106 convolution_param ConvolutionParameter,
  107 data_param DataParameter, 108 dropout_param DropoutParameter, 109 dummy_data_param DummyDataParameter,
  110 eltwise_param EltwiseParameter, 111 exp_param ExpParameter, 112 hdf5_data_param HDF5DataParameter,
  113 hdf5_output_param HDF5OutputParameter, 114 hinge_loss_param HingeLossParameter,
  115 image_data_param ImageDataParameter, 116 infogain_loss_param InfogainLossParameter,
  117 inner_product_param InnerProductParameter, 118 lrn_param LRNParameter,
  119 memory_data_param MemoryDataParameter, 120 mvn_param MVNParameter, 121 pooling_param PoolingParameter,
  122 power_param PowerParameter, 123 relu_param ReLUParameter, 124 sigmoid_param SigmoidParameter,
  125 softmax_param SoftmaxParameter, 126 slice_param SliceParameter, 127 tanh_param TanHParameter,
  128 threshold_param ThresholdParameter, 129 window_data_param WindowDataParameter,
  130 python_param PythonParameter, 131 prelu_param PReLUParameter, 132 spp_param SPPParameter,
  133 reshape_param ReshapeParameter, 134 log_param LogParameter, 135 flatten_param FlattenParameter,
  136 reduction_param ReductionParameter, 137 embed_param EmbedParameter, 138 tile_param TileParameter,
  139 batch_norm_param BatchNormParameter, 140 elu_param ELUParameter, 141 bias_param BiasParameter,
  142 scale_param ScaleParameter, 143 input_param InputParameter, 144 crop_param CropParameter,
  145 parameter_param ParameterParameter, 146 recurrent_param RecurrentParameter,
  147 swish_param SwishParameter, 148 clip_param ClipParameter, 149 nms_param NmsParameter,
  202 permute_param PermuteParameter,
  203 prior_box_param PriorBoxParameter, 204 detection_output_param DetectionOutputParameter,
  206 norm_param NormalizeParameter, 1148 imresize_param ImResizeParameter

message ParamSpec: 1 name string, 2 share_mode ParamSpec.DimCheckMode, 3 lr_mult float = 1, 4 decay_mult float = 1
enum ParamSpec.DimCheckMode: 0 STRICT, 1 PERMISSIVE

message FillerParameter: 1 type string = constant, 2 value float, 3 min float, 4 max float = 1, 5 mean float,
  6 std float = 1, 7 sparse int32 = -1, 8 variance_norm FillerParameter.VarianceNorm
enum FillerParameter.VarianceNorm: 0 FAN_IN, 1 FAN_OUT, 2 AVERAGE

message TransformationParameter: 1 scale float = 1, 2 mirror bool, 3 crop_size uint32, 4 mean_file string,
  5 mean_value float*, 6 force_color bool, 7 force_gray bool
message LossParameter: 1 ignore_label int32, 2 normalize bool, 3 normalization LossParameter.NormalizationMode = VALID
enum LossParameter.NormalizationMode: 0 FULL, 1 VALID, 2 BATCH_SIZE, 3 NONE

message AccuracyParameter: 1 top_k uint32 = 1, 2 axis int32 = 1, 3 ignore_label int32
message ArgMaxParameter: 1 out_max_val bool, 2 top_k uint32 = 1, 3 axis int32
message BatchNormParameter: 1 use_global_stats bool, 2 moving_average_fraction float = 0.999, 3 eps float = 1e-5
message BiasParameter: 1 axis int32 = 1, 2 num_axes int32 = 1, 3 filler FillerParameter
message ClipParameter: 1 min float!, 2 max float!
message ConcatParameter: 1 concat_dim uint32 = 1, 2 axis int32 = 1
message ContrastiveLossParameter: 1 margin float = 1, 2 legacy_version bool
message ConvolutionParameter: 1 num_output uint32, 2 bias_term bool = true, 3 pad uint32*, 4 kernel_size uint32*,
  5 group uint32 = 1, 6 stride uint32*, 7 weight_filler FillerParameter, 8 bias_filler FillerParameter,
  9 pad_h uint32, 10 pad_w uint32, 11 kernel_h uint32, 12 kernel_w uint32, 13 stride_h uint32, 14 stride_w uint32,
  15 engine ConvolutionParameter.Engine, 16 axis int32 = 1, 17 force_nd_im2col bool, 18 dilation uint32*
enum ConvolutionParameter.Engine: 0 DEFAULT, 1 CAFFE, 2 CUDNN
message CropParameter: 1 axis int32 = 2, 2 offset uint32*
message DataParameter: 1 source string, 2 scale float = 1, 3 mean_file string, 4 batch_size uint32, 5 crop_size uint32,
  6 mirror bool, 7 rand_skip uint32, 8 backend DataParameter.DB, 9 force_encoded_color bool, 10 prefetch uint32 = 4
enum DataParameter.DB: 0 LEVELDB, 1 LMDB
message DetectionOutputParameter: 1 num_classes uint32, 2 share_location bool = true, 3 background_label_id int32,
  4 nms_param NonMaximumSuppressionParameter, 5 save_output_param SaveOutputParameter,
  6 code_type PriorBoxParameter.CodeType = CORNER, 7 keep_top_k int32 = -1, 8 variance_encoded_in_target bool,
  9 confidence_threshold float, 10 visualize bool, 11 visualize_threshold float, 12 save_file string
message DropoutParameter: 1 dropout_ratio float = 0.5
message DummyDataParameter: 1 data_filler FillerParameter*, 2 num uint32*, 3 channels uint32*, 4 height uint32*,
  5 width uint32*, 6 shape BlobShape*
message EltwiseParameter: 1 operation EltwiseParameter.EltwiseOp = SUM, 2 coeff float*, 3 stable_prod_grad bool = true
enum EltwiseParameter.EltwiseOp: 0 PROD, 1 SUM, 2 MAX
message ELUParameter: 1 alpha float = 1
message EmbedParameter: 1 num_output uint32, 2 input_dim uint32, 3 bias_term bool = true,
  4 weight_filler FillerParameter, 5 bias_filler FillerParameter
message ExpParameter: 1 base float = -1, 2 scale float = 1, 3 shift float
message FlattenParameter: 1 axis int32 = 1, 2 end_axis int32 = -1
message HDF5DataParameter: 1 source string, 2 batch_size uint32, 3 shuffle bool
message HDF5OutputParameter: 1 file_name string
message HingeLossParameter: 1 norm HingeLossParameter.Norm = L1
enum HingeLossParameter.Norm: 1 L1, 2 L2
message ImResizeParameter: 1 target_spatial_width uint32 = 368, 2 target_spatial_height uint32 = 368, 3 factor float,
  4 start_scale float = 1, 5 scale_gap float = 0.1
message ImageDataParameter: 1 source string, 2 scale float = 1, 3 mean_file string, 4 batch_size uint32 = 1,
  5 crop_size uint32, 6 mirror bool, 7 rand_skip uint32, 8 shuffle bool, 9 new_height uint32, 10 new_width uint32,
  11 is_color bool = true, 12 root_folder string
message InfogainLossParameter: 1 source string, 2 axis int32 = 1
message InnerProductParameter: 1 num_output uint32, 2 bias_term bool = true, 3 weight_filler FillerParameter,
  4 bias_filler FillerParameter, 5 axis int32 = 1, 6 transpose bool
message InputParameter: 1 shape BlobShape*
message LogParameter: 1 base float = -1, 2 scale float = 1, 3 shift float
message LRNParameter: 1 local_size uint32 = 5, 2 alpha float = 1, 3 beta float = 0.75,
  4 norm_region LRNParameter.NormRegion, 5 k float = 1, 6 engine LRNParameter.Engine
enum LRNParameter.NormRegion: 0 ACROSS_CHANNELS, 1 WITHIN_CHANNEL
enum LRNParameter.Engine: 0 DEFAULT, 1 CAFFE, 2 CUDNN
message MemoryDataParameter: 1 batch_size uint32, 2 channels uint32, 3 height uint32, 4 width uint32
message MVNParameter: 1 normalize_variance bool = true, 2 across_channels bool, 3 eps float = 1e-9
message NmsParameter: 1 threshold float = 0.5, 2 num_peak uint32 = 100, 3 max_peaks uint32 = 20, 4 num_parts uint32 = 15
message NonMaximumSuppressionParameter: 1 nms_threshold float = 0.3, 2 top_k int32, 3 eta float = 1
message NormalizeParameter: 1 across_spatial bool = true, 2 scale_filler FillerParameter,
  3 channel_shared bool = true, 4 eps float = 1e-10
message ParameterParameter: 1 shape BlobShape
message PoolingParameter: 1 pool PoolingParameter.PoolMethod, 2 kernel_size uint32, 3 stride uint32 = 1, 4 pad uint32,
  5 kernel_h uint32, 6 kernel_w uint32, 7 stride_h uint32, 8 stride_w uint32, 9 pad_h uint32, 10 pad_w uint32,
  11 engine PoolingParameter.Engine, 12 global_pooling bool, 13 round_mode PoolingParameter.RoundMode
enum PoolingParameter.PoolMethod: 0 MAX, 1 AVE, 2 STOCHASTIC
enum PoolingParameter.Engine: 0 DEFAULT, 1 CAFFE, 2 CUDNN
enum PoolingParameter.RoundMode: 0 CEIL, 1 FLOOR
message PowerParameter: 1 power float = 1, 2 scale float = 1, 3 shift float
message PermuteParameter: 1 order uint32*
message PriorBoxParameter: 1 min_size float*, 2 max_size float*, 3 aspect_ratio float*, 4 flip bool = true, 5 clip bool,
  6 variance float*, 7 img_size uint32, 8 img_h uint32, 9 img_w uint32, 10 step float, 11 step_h float,
  12 step_w float, 13 offset float = 0.5
enum PriorBoxParameter.CodeType: 1 CORNER, 2 CENTER_SIZE, 3 CORNER_SIZE
message PReLUParameter: 1 filler FillerParameter, 2 channel_shared bool
message PythonParameter: 1 module string, 2 layer string, 3 param_str string, 4 share_in_parallel bool
message RecurrentParameter: 1 num_output uint32, 2 weight_filler FillerParameter, 3 bias_filler FillerParameter,
  4 debug_info bool, 5 expose_hidden bool
message ReductionParameter: 1 operation ReductionParameter.ReductionOp = SUM, 2 axis int32, 3 coeff float = 1
enum ReductionParameter.ReductionOp: 1 SUM, 2 ASUM, 3 SUMSQ, 4 MEAN
message ReLUParameter: 1 negative_slope float, 2 engine ReLUParameter.Engine
enum ReLUParameter.Engine: 0 DEFAULT, 1 CAFFE, 2 CUDNN
message ReshapeParameter: 1 shape BlobShape, 2 axis int32, 3 num_axes int32 = -1
message SaveOutputParameter: 1 output_directory string, 2 output_name_prefix string, 3 output_format string,
  4 label_map_file string, 5 name_size_file string, 6 num_test_image uint32
message ScaleParameter: 1 axis int32 = 1, 2 num_axes int32 = 1, 3 filler FillerParameter, 4 bias_term bool,
  5 bias_filler FillerParameter
message SigmoidParameter: 1 engine SigmoidParameter.Engine
enum SigmoidParameter.Engine: 0 DEFAULT, 1 CAFFE, 2 CUDNN
message SliceParameter: 1 slice_dim uint32 = 1, 2 slice_point uint32*, 3 axis int32 = 1
message SoftmaxParameter: 1 engine SoftmaxParameter.Engine, 2 axis int32 = 1
enum SoftmaxParameter.Engine: 0 DEFAULT, 1 CAFFE, 2 CUDNN
message SPPParameter: 1 pyramid_height uint32, 2 pool SPPParameter.PoolMethod, 6 engine SPPParameter.Engine
enum SPPParameter.PoolMethod: 0 MAX, 1 AVE, 2 STOCHASTIC
enum SPPParameter.Engine: 0 DEFAULT, 1 CAFFE, 2 CUDNN
message SwishParameter: 1 beta float = 1
message TanHParameter: 1 engine TanHParameter.Engine
enum TanHParameter.Engine: 0 DEFAULT, 1 CAFFE, 2 CUDNN
message ThresholdParameter: 1 threshold float
message TileParameter: 1 axis int32 = 1, 2 tiles int32
message WindowDataParameter: 1 source string, 2 scale float = 1, 3 mean_file string, 4 batch_size uint32,
  5 crop_size uint32, 6 mirror bool, 7 fg_threshold float = 0.5, 8 bg_threshold float = 0.5,
  9 fg_fraction float = 0.25, 10 context_pad uint32, 11 crop_mode string = warp, 12 cache_images bool,
  13 root_folder string

message SolverParameter: 1 train_net string, 2 test_net string*, 3 test_iter int32*, 4 test_interval int32,
  5 base_lr float, 6 display int32, 7 max_iter int32, 8 lr_policy string, 9 gamma float, 10 power float,
  11 momentum float, 12 weight_decay float, 13 stepsize int32, 14 snapshot int32, 15 snapshot_prefix string,
  16 snapshot_diff bool, 17 solver_mode SolverParameter.SolverMode = GPU, 18 device_id int32, 19 test_compute_loss bool,
  20 random_seed int64 = -1, 21 train_net_param NetParameter, 22 test_net_param NetParameter*, 23 debug_info bool,
  24 net string, 25 net_param NetParameter, 26 train_state NetState, 27 test_state NetState*,
  28 snapshot_after_train bool = true, 29 regularization_type string = L2,
  30 solver_type SolverParameter.SolverType, 31 delta float = 1e-8, 32 test_initialization bool = true,
  33 average_loss int32 = 1, 34 stepvalue int32*, 35 clip_gradients float = -1, 36 iter_size int32 = 1,
  37 snapshot_format SolverParameter.SnapshotFormat = BINARYPROTO, 38 rms_decay float = 0.99,
  39 momentum2 float = 0.999, 40 type string = SGD, 41 layer_wise_reduce bool = true, 42 weights string*
enum SolverParameter.SnapshotFormat: 0 HDF5, 1 BINARYPROTO
enum SolverParameter.SolverMode: 0 CPU, 1 GPU
enum SolverParameter.SolverType: 0 SGD, 1 NESTEROV, 2 ADAGRAD, 3 RMSPROP, 4 ADADELTA, 5 ADAM
message SolverState: 1 iter int32, 2 learned_net string, 3 history BlobProto*, 4 current_step int32

message V1LayerParameter: 1 layer V0LayerParameter, 2 bottom string*, 3 top string*, 4 name string,
  5 type V1LayerParameter.LayerType, 6 blobs BlobProto*, 7 blobs_lr float*, 8 weight_decay float*,
  9 concat_param ConcatParameter, 10 convolution_param ConvolutionParameter, 11 data_param DataParameter,
  12 dropout_param DropoutParameter, 13 hdf5_data_param HDF5DataParameter, 14 hdf5_output_param HDF5OutputParameter,
  15 image_data_param ImageDataParameter, 16 infogain_loss_param InfogainLossParameter,
  17 inner_product_param InnerProductParameter, 18 lrn_param LRNParameter, 19 pooling_param PoolingParameter,
  20 window_data_param WindowDataParameter, 21 power_param PowerParameter, 22 memory_data_param MemoryDataParameter,
  23 argmax_param ArgMaxParameter, 24 eltwise_param EltwiseParameter, 25 threshold_param ThresholdParameter,
  26 dummy_data_param DummyDataParameter, 27 accuracy_param AccuracyParameter,
  29 hinge_loss_param HingeLossParameter, 30 relu_param ReLUParameter, 31 slice_param SliceParameter,
  32 include NetStateRule*, 33 exclude NetStateRule*, 34 mvn_param MVNParameter, 35 loss_weight float*,
  36 transform_param TransformationParameter, 37 tanh_param TanHParameter, 38 sigmoid_param SigmoidParameter,
  39 softmax_param SoftmaxParameter, 40 contrastive_loss_param ContrastiveLossParameter, 41 exp_param ExpParameter,
  42 loss_param LossParameter, 1001 param string*, 1002 blob_share_mode V1LayerParameter.DimCheckMode*
enum V1LayerParameter.DimCheckMode: 0 STRICT, 1 PERMISSIVE
enum V1LayerParameter.LayerType: 0 NONE, 1 ACCURACY, 2 BNLL, 3 CONCAT, 4 CONVOLUTION, 5 DATA, 6 DROPOUT,
  7 EUCLIDEAN_LOSS, 8 FLATTEN, 9 HDF5_DATA, 10 HDF5_OUTPUT, 11 IM2COL, 12 IMAGE_DATA, 13 INFOGAIN_LOSS,
  14 INNER_PRODUCT, 15 LRN, 16 MULTINOMIAL_LOGISTIC_LOSS, 17 POOLING, 18 RELU, 19 SIGMOID, 20 SOFTMAX,
  21 SOFTMAX_LOSS, 22 SPLIT, 23 TANH, 24 WINDOW_DATA, 25 ELTWISE, 26 POWER, 27 SIGMOID_CROSS_ENTROPY_LOSS,
  28 HINGE_LOSS, 29 MEMORY_DATA, 30 ARGMAX, 31 THRESHOLD, 32 DUMMY_DATA, 33 SLICE, 34 MVN, 35 ABSVAL, 36 SILENCE,
  37 CONTRASTIVE_LOSS, 38 EXP, 39 DECONVOLUTION

message V0LayerParameter: 1 name string, 2 type string, 3 num_output uint32, 4 biasterm bool = true,
  5 weight_filler FillerParameter, 6 bias_filler FillerParameter, 7 pad uint32, 8 kernelsize uint32,
  9 group uint32 = 1, 10 stride uint32 = 1, 11 pool V0LayerParameter.PoolMethod, 12 dropout_ratio float = 0.5,
  13 local_size uint32 = 5, 14 alpha float = 1, 15 beta float = 0.75, 16 source string, 17 scale float = 1,
  18 meanfile string, 19 batchsize uint32, 20 cropsize uint32, 21 mirror bool, 22 k float = 1, 50 blobs BlobProto*,
  51 blobs_lr float*, 52 weight_decay float*, 53 rand_skip uint32, 54 det_fg_threshold float = 0.5,
  55 det_bg_threshold float = 0.5, 56 det_fg_fraction float = 0.25, 58 det_context_pad uint32,
  59 det_crop_mode string = warp, 60 new_num int32, 61 new_channels int32, 62 new_height int32, 63 new_width int32,
  64 shuffle_images bool, 65 concat_dim uint32 = 1, 1001 hdf5_output_param HDF5OutputParameter
enum V0LayerParameter.PoolMethod: 0 MAX, 1 AVE, 2 STOCHASTIC
"""
